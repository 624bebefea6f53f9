"""Commands: each module is one, and thin."""

import sys

from lipsjax.experiments.stopping import stop_while_imported

# as Python calls a module that it is about to run, and as the script is called; not its workers
_is_command = sys.argv[:1] and sys.argv[0].endswith(("-m", "lipsjax", "lipsjax.exe"))
if _is_command and "--multiprocessing-fork" not in sys.orig_argv:
    stop_while_imported()
