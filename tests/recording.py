"""Record a training without a trainer: tests pass the steps."""

from values import LAYOUT, MEMBERS

from yolo_gradwatch.runs.resume import earlier_run
from yolo_gradwatch.views.notebook import View
from yolo_gradwatch.views.terminal.output import Terminal
from yolo_gradwatch.watch.assembly import Training, assemble
from yolo_gradwatch.watch.options import Options


class Recording:
    """A recorder in its first epoch with its outputs; other attributes are the recorder's."""

    def __init__(self, folder, *, resumes=False, live=False, options=None, **asked):
        training = Training(
            folder,
            {"amp": False, **(options or {})},
            epochs=1,
            resumes=resumes,
            earlier=earlier_run(folder) if resumes else None,
            versions={},
        )
        self.raised = []
        terminal = Terminal(live=live, handlers=[], safely=self._safely)
        self.pictures = []
        parts = assemble(
            LAYOUT,
            MEMBERS,
            training,
            Options(live=live, **asked),
            terminal=terminal,
            view=View(),
            announce=self.pictures.append,
        )
        self.recorder, self.evidence, self.stop = parts.recorder, parts.evidence, parts.stop
        self.schedule, self.flow = parts.schedule, parts.diagnosing.flow
        self.recorder.open()
        self.first_step = self.recorder.last_step + 1
        self.recorder.start_epoch(1, 1)

    def _safely(self, call, *args):
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001  # a session ends the watch
            self.raised.append(error)

    def __getattr__(self, name):
        return getattr(self.recorder, name)

    def step(self, one):
        """Record a sample as the next step."""
        self.recorder.last_step = one.step
        self.recorder.wanted(one.step)
        self.recorder.take([one])

    def finish(self, status="finished"):
        """End the run and close the recorder."""
        self.recorder.end(status)
        self.recorder.close()
