"""The error that means the user can mend it."""


class UserError(Exception):
    """A mistake in the input, named in one line with the way out.

    The command line prints the message alone and exits with code 2; library users catch it like any exception.
    """
