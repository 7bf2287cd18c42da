"""Submit a job to a Ray cluster: `python -m jobs.submit NAME --config FILE [key.path=value ...]`."""

from ftlib.runtime.submit import main

if __name__ == "__main__":
    main()
