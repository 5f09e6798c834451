"""Running a network without torch: the protocol, one file per runtime, and the export that feeds them."""
