"""The browser in which pages are looked at."""

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chromium-headless-shell")


def chromium() -> str:
    """The path of an installed Chromium; empty if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), "")


if __name__ == "__main__":
    raise SystemExit(not chromium())
