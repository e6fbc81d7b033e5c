package source

import (
	"time"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// hooks returns hooks that log and count what the clients of an upstream report.
// Several reports that it has more than one address.
func (c *Clients) hooks(name string, several bool) upstream.Hooks {
	logger := c.Logger // the clients outlive c
	hooks := upstream.Hooks{
		Token: func(realmHost string, err error) {
			message := "upstream rejected the configured credentials"
			switch upstream.KindOf(err) {
			case upstream.Withheld:
				message = "the configured credentials cannot be used at the upstream"
				fallthrough
			case upstream.Credentials:
				logger().Warn(message, zap.String("upstream", name), zap.String("realm", realmHost), zap.Error(err))
			}
		},
		Paused: func(host string, pause time.Duration, err error) {
			message := "an endpoint of an upstream cannot answer; asking the others"
			switch {
			case several:
			case upstream.KindOf(err) == upstream.RateLimited:
				message = "an upstream limits requests; it is not asked for a while"
			default:
				return // reported by Changed
			}
			logger().Warn(message,
				zap.String("upstream", name), zap.String("endpoint", host), zap.Duration("pause", pause), zap.Error(err))
		},
		Changed: func(change upstream.Change, state upstream.State) {
			logChange(logger().With(zap.String("upstream", name), zap.String("endpoint", state.Host)), change, state)
		},
	}
	metrics.CountUpstream(name, &hooks)
	return hooks
}

func logChange(logger *zap.Logger, change upstream.Change, state upstream.State) {
	switch change {
	case upstream.WentDown:
		logger.Warn("an upstream is down; serving what is stored until it answers", zap.String("last_error", state.LastError))
	case upstream.CameUp:
		logger.Info("an upstream that was down answers again")
	case upstream.BudgetLow:
		logger.Warn("less than 20 % of the pull limit of an upstream remain; tags are checked less often",
			zap.Int64("limit", state.Budget.Limit), zap.Int64("remaining", state.Budget.Remaining), zap.Duration("window", state.Budget.Window))
	}
}
