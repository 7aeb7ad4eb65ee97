"""Looking inside a trained model: the explorer page, one file that runs it in a browser.

Read `explorer.py`, then `stations.py`; what the browser does is in `page/`.
"""

from .explorer import Explored, explore
