//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestBucketOutage kills the bucket, and later only freezes it, while clients pull.
// Pulls go on. When the bucket is back, what was pulled meanwhile is uploaded.
func TestBucketOutage(t *testing.T) {
	bucket := startBucket(t)
	c := startCluster(t, bucket, false, 3)
	mine := loggedInto(t, proxies(c.nodes...)...)
	l := startLoad(t, c)
	time.Sleep(2 * time.Second)
	bucket.kill()
	during := lab.push.single(t, "library/without-bucket", "1", 1<<20, 3<<20)
	cranePull(t, mine, c.nodes[0].reference("acme", during), during)
	cranePull(t, mine, c.nodes[1].reference("acme", during), during)
	c.nodes[0].says(t, trouble)
	time.Sleep(2 * time.Second)
	bucket.launch(t)
	bucket.await(t, during)
	bucket.freeze()
	silent := lab.push.single(t, "library/frozen-bucket", "1", 1<<20)
	cranePull(t, mine, c.nodes[0].reference("acme", silent), silent)
	time.Sleep(2 * time.Second)
	bucket.thaw()
	bucket.await(t, silent)
	l.stop()
	awaitUploads(t, c.nodes...)
	c.wantSound(t)
	c.wantSecretsHidden(t)
}

// TestBucketRefuses gives one node a wrong secret, and another one a bucket that does
// not exist. Their pulls work, and the log says what to do.
func TestBucketRefuses(t *testing.T) {
	bucket := startBucket(t)
	c := newCluster(t)
	c.bucket = bucket
	denied, lost := c.node(t), c.node(t)
	denied.bucket = strings.Replace(bucket.lines(), "BUCKET_SECRET", "WRONG_PASSWORD", 1)
	lost.bucket = strings.Replace(bucket.lines(), "bucket "+bucketName, "bucket elsewhere", 1)
	c.launch(t, denied, lost)
	mine := loggedInto(t, denied.proxy, lost.proxy)
	img := lab.push.single(t, "library/refused", "1", 1<<20)
	for n, want := range map[*node]string{denied: "check the credentials", lost: "create the bucket"} {
		cranePull(t, mine, n.reference("acme", img), img)
		cranePull(t, mine, n.reference("acme", img), img)
		n.says(t, want)
		if strings.Contains(n.output(), wrongPassword) {
			t.Errorf("the log of %s shows its secret", n.host)
		}
	}
	c.wantSecretsHidden(t)
}
