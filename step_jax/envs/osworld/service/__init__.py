"""What runs in the interpreter that has desktop-env, as a program."""
