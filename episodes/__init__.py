"""Episodes in memory and on disk: replay, data sets, exchange with Minari."""
