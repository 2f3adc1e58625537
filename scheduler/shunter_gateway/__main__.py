"""`python -m shunter_gateway`."""

import os
import sys

from shunter_runtime.grpc_polling import poll_directly


def main() -> int:
    poll_directly(os.environ)
    from shunter_gateway import command  # gRPC reads its switches when it is imported

    return command.main()


if __name__ == "__main__":
    sys.exit(main())
