"""Commands: each module is one, and thin."""

from lipsjax.experiments import stopping as stopping  # before all that takes time
