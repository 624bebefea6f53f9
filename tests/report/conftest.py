"""What tests of pages share."""

import pytest
from markupsafe import Markup

from lipsjax.report import plots


@pytest.fixture
def sketched(monkeypatch):
    """Leaves figures empty but for their label: drawing them takes most of a page's time."""

    def empty(_figure, _name, label):
        return Markup('<svg role="img" aria-label="{}"></svg>').format(label)

    monkeypatch.setattr(plots, "svg", empty)
