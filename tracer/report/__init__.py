"""Pictures and a page of a recording. The only room that imports matplotlib and jinja2."""
