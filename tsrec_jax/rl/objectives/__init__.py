"""The objectives, one per file: functions of the kind `terms.ObjectiveFunction`."""
