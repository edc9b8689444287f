"""What a vault holds, as one process knows it: the index, and the records of who is at work."""

import os

# numpy is loaded from here on. Its linear algebra, which nothing here uses, would start a thread
# for each core that waits busily: 0.07 s of processor time whenever a vault is opened.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
