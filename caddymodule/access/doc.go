// Package access decides who a client is and what the client may do.
//
// Who is it? [Accounts] holds the directories of a site in the order of the
// configuration. It checks logins, finds the account that a bearer token
// identifies, and returns a [Caller]: the account as its directory knows it now.
// [Gate] stands in front of logins. Its [Throttle] counts failed logins per
// client address and per account before any directory is asked, and the gate
// delays the answer to a failed login, so that the time does not tell which
// accounts exist. [Tokens] creates, lists and revokes the access tokens of the
// site, which log in like accounts.
//
// May they? [Policy] compares a Caller with the groups of the configuration and
// of the directories, and returns a [Verdict]. [ImageLimits] are about images, not
// about callers: they limit what can be pulled through a group.
//
// A request with a user name and password passes through [Gate.Login], the
// throttle, and [Accounts.Authenticate], which checks access tokens itself and
// asks the directories about everything else. A request with a bearer token,
// whose signature the handler has verified, passes through [Accounts.Current].
// Either way [Policy.Decide] then judges the Caller in the group of the request.
// The decision is made again for each request: a token grants nothing.
//
// [Accounts.Add] and [Accounts.UseTokens] set up a configuration. All other
// methods may be called concurrently.
package access
