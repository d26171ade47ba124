from addon.store.errors import DigestMismatch, NoRoom, StoreError


def test_who_catches_store_errors_catches_a_wrong_blob_and_a_full_store() -> None:
    assert issubclass(DigestMismatch, StoreError)
    assert issubclass(NoRoom, StoreError)


def test_no_store_error_is_taken_for_a_failing_disk() -> None:
    # The two are answered differently: a blob that is wrong is never given out, a disk that is full is gone round.
    assert not issubclass(StoreError, OSError)
