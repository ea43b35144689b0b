"""Replays of a day's changes against a quota, by policies that do and do not know the day."""
