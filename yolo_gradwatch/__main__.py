"""``python -m yolo_gradwatch``: the same as the command ``yolo-gradwatch``."""

from yolo_gradwatch.cli.main import script

if __name__ == "__main__":
    script()
