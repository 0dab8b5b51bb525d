"""As much of DVCLive 3.49 as Ultralytics' callbacks need, without a DVC repository."""

pictures = []


class Live:
    def __init__(self, **_options):
        self._dvc_repo = None
        self.summary = {}

    def log_image(self, name, _path):
        pictures.append(name)

    def end(self):
        if pictures:  # `cache_images=True` wants to add their folder
            self._dvc_repo.add("plots/images")

    def log_params(self, _params):
        """Do nothing."""

    def log_metric(self, _name, _value, *, plot=True):
        """Do nothing."""

    def log_plot(self, *_args, **_options):
        """Do nothing."""

    def log_artifact(self, _path, **_options):
        """Do nothing."""

    def log_sklearn_plot(self, *_args, **_options):
        """Do nothing."""

    def next_step(self):
        """Do nothing."""
