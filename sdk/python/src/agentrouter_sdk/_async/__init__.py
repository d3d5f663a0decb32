"""The client for async programs. The one for others, in _sync, is made of it by generate.sh."""
