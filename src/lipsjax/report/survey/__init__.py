"""What a site engineer should know of the sites, and ask, before anything is trained."""

from lipsjax.report.survey.checklist import Item, checklist
from lipsjax.report.survey.page import pictures, table, write_json, write_page
from lipsjax.report.survey.remarks import chance_tv, remarks
from lipsjax.report.survey.words import Called, Remark

__all__ = [
    "Called",
    "Item",
    "Remark",
    "chance_tv",
    "checklist",
    "pictures",
    "remarks",
    "table",
    "write_json",
    "write_page",
]
