"""The objectives, a file each: functions of the kind `terms.ObjectiveFunction`."""
