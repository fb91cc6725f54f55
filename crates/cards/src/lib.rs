//! Software cards: the file that the processes of a machine share.
