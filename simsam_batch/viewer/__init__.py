"""``simsam view``: a server for one person that shows runs in a browser, over the reading API; it computes nothing."""
