"""All knowledge of Ultralytics."""
