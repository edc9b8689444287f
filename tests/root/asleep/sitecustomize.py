"""Keeps a Python that has this on its path from running anything."""

import time

time.sleep(60)
