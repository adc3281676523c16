"""The browser scripts in a real Chromium, on pages of other sites, against the running system."""
