"""The terminal view: samples in, a screen out. The only room that knows Textual."""
