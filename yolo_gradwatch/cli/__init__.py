"""The command ``yolo-gradwatch``."""
