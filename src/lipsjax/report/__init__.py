"""From findings to pages: HTML, Markdown, the terminal, figures, the survey of sites."""
