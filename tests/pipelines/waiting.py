"""A pipeline whose only step starts two processes that wait: `python waiting.py FOLDER`. Nothing imports TensorFlow."""

import sys

WORKER = "import os, time; print('worker', os.getpid(), flush=True); time.sleep(300)"


def wait(done):
    """The work of the step, like a training of two processes, but without TensorFlow."""
    import os

    from light import without_tensorflow

    without_tensorflow()
    from components import owner
    from keras_spatial.launch import launch

    print("step", os.getpid(), flush=True)
    launch([sys.executable, "-c", WORKER], 2, pass_fds=owner.locks())


def main(folder):
    from kfp import dsl

    from pipelines import local

    @dsl.component(base_image="python", install_kfp_package=False)
    def waits(done: dsl.Output[dsl.Dataset]):
        from components.resume import step

        step("waits", "waiting:wait", outputs={"done": done})

    @dsl.pipeline(name="waiting")
    def waiting():
        waits()

    try:
        local.run(waiting, folder, "epochs: 1\n")
    except local.Ended as ended:
        print(f"FAILED: {ended}", flush=True)
        sys.exit(128 + ended.number)
    except local.RunFolderError as error:
        print(f"refused: {error}", flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1])
