"""Who is told: alarms on cluster, network and quotas, and a budget. Alerts of runs are Prometheus's (k8s/)."""

from __future__ import annotations

from aws_cdk import (
    Duration,
    Environment,
    Stack,
    aws_budgets,
    aws_cloudwatch,
    aws_cloudwatch_actions,
    aws_ec2,
    aws_iam,
    aws_kms,
    aws_sns,
    aws_sns_subscriptions,
)
from constructs import Construct

from infra.account import AccountSpec
from infra.pools import pools_of
from infra.quotas import QUOTAS
from infra.stacks.keys import key, let_services_publish

SENDERS = ("cloudwatch.amazonaws.com", "budgets.amazonaws.com")
ALARMED_SHARE = 0.8
"""Of a quota. Asking for more takes AWS days."""
DATABASE_BYTES = 6 * 2**30
"""Of 8 GiB, at which the control plane takes nothing in any more."""


class WatchStack(Stack):
    """A topic with the addresses of the file, and what is sent to it."""

    def __init__(self, scope: Construct, account: AccountSpec, env: Environment, vpc: aws_ec2.Vpc) -> None:
        super().__init__(scope, f"{account.name}-watch", env=env, description="rayml: alarms and budget")
        topic = make_topic(self, account)
        for alarm in [
            *watch_control_plane(self, account),
            *watch_ways_out(self, account, vpc),
            *watch_quotas(self, account),
        ]:
            alarm.add_alarm_action(aws_cloudwatch_actions.SnsAction(topic))
            alarm.add_ok_action(aws_cloudwatch_actions.SnsAction(topic))
        watch_costs(self, account, topic)


def make_topic(scope: Construct, account: AccountSpec) -> aws_sns.Topic:
    """Encrypted, TLS only; CloudWatch and Budgets of this account may send to it."""
    made: aws_kms.Key = key(scope, "AlertsKey", f"{account.name}/alerts", "Encrypts alerts")
    let_services_publish(made, SENDERS)
    topic = aws_sns.Topic(scope, "Alerts", topic_name=f"{account.name}-alerts", master_key=made, enforce_ssl=True)
    topic.add_to_resource_policy(
        aws_iam.PolicyStatement(
            sid="Senders",
            principals=[aws_iam.ServicePrincipal(sender) for sender in SENDERS],
            actions=["sns:Publish"],
            resources=[topic.topic_arn],
            conditions={"StringEquals": {"aws:SourceAccount": account.account}},
        )
    )
    for email in account.watch.emails:
        topic.add_subscription(aws_sns_subscriptions.EmailSubscription(email))
    return topic


def watch_control_plane(scope: Construct, account: AccountSpec) -> list[aws_cloudwatch.Alarm]:
    """By the metrics that EKS sends by itself, without an agent and at no cost (namespace AWS/EKS)."""

    def metric(name: str, statistic: str) -> aws_cloudwatch.Metric:
        return aws_cloudwatch.Metric(
            namespace="AWS/EKS",
            metric_name=name,
            dimensions_map={"ClusterName": account.name},
            statistic=statistic,
            period=Duration.minutes(5),
        )

    return [
        alarm(
            scope,
            account,
            "api-errors",
            "The API server answers with 5xx",
            metric("apiserver_request_total_5XX", "Sum"),
            50,
            3,
        ),
        alarm(
            scope,
            account,
            "pods-wait",
            "Pods found no node for half an hour: a quota, a pool's max, or no capacity in the zone",
            metric("scheduler_pending_pods_UNSCHEDULABLE", "Minimum"),
            0,
            6,
        ),
        alarm(
            scope,
            account,
            "database",
            "The control plane's database is nearly full: delete finished RayJobs and their events",
            metric("apiserver_storage_size_bytes", "Maximum"),
            DATABASE_BYTES,
            3,
        ),
    ]


def watch_ways_out(scope: Construct, account: AccountSpec, vpc: aws_ec2.Vpc) -> list[aws_cloudwatch.Alarm]:
    """A NAT gateway without free ports drops connections, and says so nowhere else."""
    gateways = [each for each in vpc.node.find_all() if isinstance(each, aws_ec2.CfnNatGateway)]
    return [
        alarm(
            scope,
            account,
            f"way-out-{at}",
            "A NAT gateway drops connections: too many to one address at a time",
            aws_cloudwatch.Metric(
                namespace="AWS/NATGateway",
                metric_name="ErrorPortAllocation",
                dimensions_map={"NatGatewayId": gateway.attr_nat_gateway_id},
                statistic="Sum",
                period=Duration.minutes(5),
            ),
            0,
            2,
        )
        for at, gateway in enumerate(gateways)
    ]


def watch_quotas(scope: Construct, account: AccountSpec) -> list[aws_cloudwatch.Alarm]:
    """Each quota that a pool counts against. CloudWatch knows its value (SERVICE_QUOTA)."""
    needed = {(pool.spec.instance.quota, pool.is_spot) for pool in pools_of(account)}
    classes = sorted({QUOTAS[each].usage_class for each in needed})
    return [
        alarm(
            scope,
            account,
            f"quota-{name.lower().replace('/', '-')}",
            f"vCPUs of {name} above {ALARMED_SHARE:.0%} of the quota: ask for more at Service Quotas",
            aws_cloudwatch.MathExpression(
                expression="used / SERVICE_QUOTA(used)",
                period=Duration.minutes(5),
                using_metrics={
                    "used": aws_cloudwatch.Metric(
                        namespace="AWS/Usage",
                        metric_name="ResourceCount",
                        dimensions_map={"Service": "EC2", "Type": "Resource", "Resource": "vCPU", "Class": name},
                        statistic="Maximum",
                        period=Duration.minutes(5),
                    )
                },
            ),
            ALARMED_SHARE,
            3,
        )
        for name in classes
    ]


def alarm(
    scope: Construct,
    account: AccountSpec,
    name: str,
    description: str,
    metric: aws_cloudwatch.IMetric,
    threshold: float,
    periods: int,
) -> aws_cloudwatch.Alarm:
    """Above a threshold for some periods in a row. No data is no alarm: a metric comes with its first event."""
    return aws_cloudwatch.Alarm(
        scope,
        name,
        alarm_name=f"{account.name}-{name}",
        alarm_description=description,
        metric=metric,
        threshold=threshold,
        evaluation_periods=periods,
        comparison_operator=aws_cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
        treat_missing_data=aws_cloudwatch.TreatMissingData.NOT_BREACHING,
    )


def watch_costs(scope: Construct, account: AccountSpec, topic: aws_sns.Topic) -> None:
    """Of the account as a whole. A budget tells and does not stop."""
    subscriber = aws_budgets.CfnBudget.SubscriberProperty(subscription_type="SNS", address=topic.topic_arn)
    steps = [("ACTUAL", 50), ("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100)]
    aws_budgets.CfnBudget(
        scope,
        "Budget",
        budget=aws_budgets.CfnBudget.BudgetDataProperty(
            budget_name=account.name,
            budget_type="COST",
            time_unit="MONTHLY",
            budget_limit=aws_budgets.CfnBudget.SpendProperty(amount=account.watch.budget_usd_per_month, unit="USD"),
        ),
        notifications_with_subscribers=[
            aws_budgets.CfnBudget.NotificationWithSubscribersProperty(
                notification=aws_budgets.CfnBudget.NotificationProperty(
                    notification_type=kind,
                    comparison_operator="GREATER_THAN",
                    threshold=percent,
                    threshold_type="PERCENTAGE",
                ),
                subscribers=[subscriber],
            )
            for kind, percent in steps
        ],
    )
