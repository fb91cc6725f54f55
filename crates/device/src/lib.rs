//! The software device: objects, memory and what each driver call answers.
