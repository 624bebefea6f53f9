"""What a site engineer should know of the sites, and ask, before anything is trained."""

from lipsjax.survey.drawing import pictures, table, write_json, write_page
from lipsjax.survey.remarks import Remark, chance_tv, remarks

__all__ = ["Remark", "chance_tv", "pictures", "remarks", "table", "write_json", "write_page"]
