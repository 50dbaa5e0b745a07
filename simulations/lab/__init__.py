"""The lab: studies of many runs, what they say together, and pages that show it."""
