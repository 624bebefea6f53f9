"""How all pages are made from their templates."""

import re

import jinja2


def environment() -> jinja2.Environment:
    """Return an environment for the templates of this package.

    Texts are escaped, and a name that is not given raises. The filter ``typeset`` makes hyphens
    before numbers minus signs.

    >>> environment().from_string("{{ 'a < b by -2' | typeset }}").render()
    'a &lt; b by −2'
    """
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("lipsjax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["typeset"] = lambda text: re.sub(r"(?<![\w.])-(?=\d)", "−", text)
    return made
