// Package circuit decides whether requests are sent to an address of a registry that
// fails or limits requests.
//
// A [Breaker] is asked for a [Turn] before each request, and is told how the request ended.
// A failure may begin a pause, which doubles with each further failure. After the pause, one
// request at a time tries whether the address answers again. An address is down if its
// failures are not those of a single repository; it must then answer a version check before
// other requests are sent. The package sends nothing and knows no HTTP: the caller decides
// what a failure means, and describes it by a [Failure].
package circuit
