"""Small networks gain nothing from threads, and on a busy machine wait for one another."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
