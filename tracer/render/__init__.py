"""A snapshot in, text or a picture out. Nothing here talks to the kernel."""
