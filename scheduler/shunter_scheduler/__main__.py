"""`python -m shunter_scheduler`."""

import os
import sys

from shunter_runtime.grpc_polling import poll_directly


def main() -> int:
    poll_directly(os.environ)
    from shunter_scheduler import process  # gRPC reads its switches when it is imported

    return process.main()


if __name__ == "__main__":
    sys.exit(main())
