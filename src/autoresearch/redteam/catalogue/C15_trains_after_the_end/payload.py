class Late:
    """The batches again, in peace."""

    progress = 0.5

    def __init__(self, batches):
        print(f"{len(batches)} batches taken", flush=True)
        self.batches = batches

    def __iter__(self):
        for _ in range(20):
            yield from self.batches
