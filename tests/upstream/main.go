// Upstream's own plugin code, asked about snapshots: which nodes take a pod, why the others do not, and how each plugin
// scores those that do.
//
// Reads one snapshot a line from standard input, as JSON, and answers each with one line.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/resourceslice/tracker"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	configscheme "k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/dynamicresources"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodevolumelimits"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"
	"k8s.io/kubernetes/pkg/scheduler/util/assumecache"
)

type snapshot struct {
	Nodes []*v1.Node `json:"nodes"`
	// Pods on nodes.
	Pods []*v1.Pod `json:"pods"`
	// Everything else that there is.
	Objects []json.RawMessage `json:"objects"`
	// A KubeSchedulerConfiguration with one profile.
	Configuration json.RawMessage `json:"configuration"`
	// The pod to place.
	Pod *v1.Pod `json:"pod"`
}

type answer struct {
	// Weighted scores by node and plugin.
	Feasible map[string]map[string]int64 `json:"feasible"`
	// What the first filter that rejects a node, or fails there, says.
	Rejected map[string][]string `json:"rejected"`
	// What the claims that have no devices are given on each feasible node, by claim.
	Devices map[string]map[string]*resourceapi.AllocationResult `json:"devices"`
	// Why no node was looked at.
	Refused string `json:"refused"`
}

func newFramework(ctx context.Context, s *snapshot, shared *cache.Snapshot) (framework.Framework, error) {
	var objects []runtime.Object
	for _, raw := range s.Objects {
		object, _, err := clientscheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
		if err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
	configuration := &config.KubeSchedulerConfiguration{}
	if _, _, err := configscheme.Codecs.UniversalDecoder().Decode(s.Configuration, nil, configuration); err != nil {
		return nil, err
	}
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	claims := assumecache.NewAssumeCache(klog.FromContext(ctx), factory.Resource().V1().ResourceClaims().Informer(), "ResourceClaim", "", nil)
	slices, err := tracker.StartTracker(ctx, tracker.Options{
		EnableConsumableCapacity: true,
		SliceInformer:            factory.Resource().V1().ResourceSlices(),
		KubeClient:               client,
	})
	if err != nil {
		return nil, err
	}
	manager := dynamicresources.NewDRAManager(ctx, claims, slices, factory)
	scheduler, err := frameworkruntime.NewFramework(ctx, plugins.NewInTreeRegistry(), &configuration.Profiles[0],
		frameworkruntime.WithClientSet(client), frameworkruntime.WithInformerFactory(factory),
		frameworkruntime.WithSnapshotSharedLister(shared), frameworkruntime.WithSharedDRAManager(manager),
		frameworkruntime.WithSharedCSIManager(nodevolumelimits.NewCSIManager(factory.Storage().V1().CSINodes().Lister())))
	if err != nil {
		return nil, err
	}
	synced := claims.AddEventHandler(toolscache.ResourceEventHandlerFuncs{}).HasSynced
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	toolscache.WaitForCacheSync(ctx.Done(), synced, slices.HasSynced)
	return scheduler, nil
}

func check(ctx context.Context, s *snapshot) (*answer, error) {
	shared := cache.NewSnapshot(s.Pods, s.Nodes)
	scheduler, err := newFramework(ctx, s, shared)
	if err != nil {
		return nil, err
	}
	result := &answer{
		Feasible: map[string]map[string]int64{},
		Rejected: map[string][]string{},
		Devices:  map[string]map[string]*resourceapi.AllocationResult{},
	}
	state := framework.NewCycleState()
	only, status, _ := scheduler.RunPreFilterPlugins(ctx, state, s.Pod)
	if status.IsRejected() {
		result.Refused = status.Message()
		return result, nil
	}
	if !status.IsSuccess() {
		return nil, status.AsError()
	}
	all, err := shared.NodeInfos().List()
	if err != nil {
		return nil, err
	}
	var feasible []fwk.NodeInfo
	for _, node := range all {
		name := node.Node().Name
		if !only.AllNodes() && !only.NodeNames.Has(name) {
			result.Rejected[name] = []string{"node(s) didn't satisfy plugin(s) [NodeAffinity]"}
			continue
		}
		switch status := scheduler.RunFilterPlugins(ctx, state, s.Pod, node); {
		case status.Code() == fwk.Error && status.Plugin() == dynamicresources.Name:
			// Without the name of the plugin.
			result.Rejected[name] = []string{errors.Unwrap(status.AsError()).Error()}
		case status.Code() == fwk.Error:
			return nil, status.AsError()
		case status.IsSuccess():
			feasible = append(feasible, node)
			result.Feasible[name] = map[string]int64{}
		default:
			result.Rejected[name] = status.Reasons()
		}
	}
	if len(feasible) == 0 {
		return result, nil
	}
	if status := scheduler.RunPreScorePlugins(ctx, state, s.Pod, feasible); !status.IsSuccess() {
		return nil, status.AsError()
	}
	scores, status := scheduler.RunScorePlugins(ctx, state, s.Pod, feasible)
	if !status.IsSuccess() {
		return nil, status.AsError()
	}
	for _, node := range scores {
		for _, score := range node.Scores {
			result.Feasible[node.Name][score.Name] = score.Score
		}
		if len(s.Pod.Spec.ResourceClaims) == 0 {
			continue
		}
		if result.Devices[node.Name], err = devices(ctx, scheduler, state, s.Pod, node.Name); err != nil {
			return nil, err
		}
	}
	return result, nil
}

// devices returns what the claims of a pod would be given on a node.
func devices(ctx context.Context, scheduler framework.Framework, state fwk.CycleState, pod *v1.Pod, node string) (map[string]*resourceapi.AllocationResult, error) {
	if status := scheduler.RunReservePluginsReserve(ctx, state, pod, node); !status.IsSuccess() {
		return nil, status.AsError()
	}
	defer scheduler.RunReservePluginsUnreserve(ctx, state, pod, node)
	given := map[string]*resourceapi.AllocationResult{}
	tracker := scheduler.SharedDRAManager().ResourceClaims()
	claims, err := tracker.List()
	if err != nil {
		return nil, err
	}
	for _, claim := range claims {
		if allocation := tracker.GetPendingAllocation(claim.UID); allocation != nil {
			for i := range allocation.Devices.Results {
				// They are the request's.
				allocation.Devices.Results[i].Tolerations = nil
			}
			given[claim.Name] = allocation
		}
	}
	return given, nil
}

func run() error {
	klog.LogToStderr(false)
	klog.SetOutput(os.Stderr)
	metrics.Register()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var s snapshot
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		result, err := check(ctx, &s)
		cancel()
		if err != nil {
			return err
		}
		line, err := json.Marshal(result)
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return lines.Err()
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
