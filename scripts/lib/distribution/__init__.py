"""What is given away: a wheel of the release build, and the licences of what is linked into it."""
