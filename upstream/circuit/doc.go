// Package circuit decides whether requests are sent to an address of a registry that
// fails or limits requests.
//
// A [Breaker] is asked for a [Turn] before each request and told how it ended. A failure
// may begin a pause, which doubles with each further one; then one request at a time
// tries whether the address answers again. An address whose failures are not those of a
// single repository is down, which its version check has to disprove first. The package
// sends nothing and knows no HTTP: what a failure means is up to the caller, which
// describes it by a [Failure].
package circuit
