"""The teacher: for each SID token, a description and keywords of the items that carry it."""
