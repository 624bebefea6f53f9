"""What a site engineer should know of the sites, and ask, before anything is trained."""

from lipsjax.report.survey.page import pictures, table, write_json, write_page
from lipsjax.report.survey.remarks import Remark, chance_tv, remarks

__all__ = ["Remark", "chance_tv", "pictures", "remarks", "table", "write_json", "write_page"]
