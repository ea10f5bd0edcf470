"""The instrument examines itself: known truths, pure noise, speed and agreement beside peers."""
