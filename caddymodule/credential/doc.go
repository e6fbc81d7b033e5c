// Package credential obtains the logins at upstream registries: from placeholders,
// from credential helpers of Docker, from commands, and from Docker's configuration
// file.
//
// A [Source] is the configuration. [Source.Open] reads what is in files and
// environment variables, so that mistakes are errors at load, and runs nothing. The
// [Login] that it returns runs the program when the registry first asks for a
// login, renews the login before it expires, and looks for a newer one when it is
// refused. Programs run without a shell, with a bounded time and output, and at
// most once in ten seconds. What they print is never part of an error.
package credential
