"""Command line interface ``yolo-gradwatch``."""
