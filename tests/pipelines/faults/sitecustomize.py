"""Python imports this module at its start: the step that `TEST_FAULT` names fails when it is about to begin."""

import os
import sys

fault = os.environ.get("TEST_FAULT")

if fault and os.environ.get("_KFP_RUNTIME") == "true":

    class _Finder:
        """Wraps `components.resume.step` as soon as that module is imported."""

        def find_spec(self, name, path=None, target=None):
            if name != "components.resume":
                return None
            sys.meta_path.remove(self)
            import components.resume as resume

            original = resume.step

            def step(name, function, **arguments):
                def full_disk(**_):
                    raise OSError(28, "No space left on device")

                return original(name, full_disk if name == fault else function, **arguments)

            resume.step = step
            return resume.__spec__

    sys.meta_path.insert(0, _Finder())
