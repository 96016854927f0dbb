"""The teacher: for each SID token or path, a description and keywords of the items that share it."""
