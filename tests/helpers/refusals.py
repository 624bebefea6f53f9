"""What a refusal says."""

import pytest


def refused(make):
    """Return the words of the ValueError that a call raises."""
    with pytest.raises(ValueError) as error:
        make()
    return str(error.value)
