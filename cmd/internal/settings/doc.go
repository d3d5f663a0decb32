// Package settings is how our programs take what an operator may choose: from flags and from variables, which flags
// outrank. A setting is declared once, as a Setting; its flag, its variable, its default, its help and its first check
// follow from that. A variable that begins like a setting and is none is an error, and all that is wrong is told at once.
// Secrets come in files or variables, never in flags, which every user of a machine can see.
//
// It knows none of the programs' settings, and imports nothing of ours but package cli, for the kind of its error.
package settings
